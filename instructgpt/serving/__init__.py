"""The server: models and rewards behind the OpenAI wire format, a chat page, and a way back for feedback."""
