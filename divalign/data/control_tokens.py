"""Text that chat templates and tokenizers turn into control tokens: one pattern for the audit and for the judges."""

# Bars on both sides, full-width as some tokenizers use them, or on one as Gemma 4 does (<|turn>, <turn|>); Mistral's
# brackets, Llama 2's, Kimi's triangles, and names between angle brackets.
CONTROL_TOKENS = (
    r"<[|｜][^<>\n]{0,60}[|｜]>|<[|｜][^<>\s|｜]{1,60}>|<[^<>\s|｜]{1,60}[|｜]>"
    r"|\[/?(?:INST|THINK)\]"
    r"|<</?SYS>>"
    r"|◁[^◁▷\n]{1,60}▷"
    r"|</?(?:s|bos|eos|start_of_turn|end_of_turn|im_start|im_end)>"
)
