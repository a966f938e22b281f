"""The same results sooner: every module here is exact, or says what it is not."""
