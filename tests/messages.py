"""Messages of a conversation."""


def said(text: str, role: str = "assistant") -> list[dict]:
    """Return one turn."""
    return [{"role": role, "content": text}]
