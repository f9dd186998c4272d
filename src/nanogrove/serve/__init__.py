"""A server with an interface that clients of OpenAI know; the extra `serve` brings what it needs."""
