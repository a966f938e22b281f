"""The client of OpenAI-compatible endpoints, for judges and for models that a server holds."""
