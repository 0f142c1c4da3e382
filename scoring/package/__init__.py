"""The response package: how it is laid out, made, and examined."""
