"""Rows made with a teacher: answers, rejection sampling, self-instruct."""
