"""Chat templates in the manner of well-known families, written for these tests, and small
tokenizers that wear them.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

CORPUS = [
    "The quick brown fox jumps over the lazy dog and asks what the capital of France may be.",
    "Paris is the capital of France; 42 is the answer to everything, is it not?",
    "You are terse. Translate the sentence and answer in one word, please: yes or no.",
] * 4


@dataclass(frozen=True)
class Family:
    template: str | None
    special: list[str]
    bos: str | None
    eos: str
    end: str  # the token that ends an answer
    adds_bos: bool = False  # the tokenizer puts it before every text
    metaspace: bool = False  # words begin with ▁, as in SentencePiece vocabularies
    takes_system: bool = True


CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
{%- if loop.first and message.role == 'system' %}{{- 'Today Date: ' + strftime_now('%d %b %Y') + '\n\n' }}{% endif %}
{{- message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

GEMMA = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Roles must alternate') }}{% endif %}
{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{% endif %}"""

# Leaves a system turn out without a word.
MISTRAL = """{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'user' %}{{- '[INST] ' + message.content + ' [/INST]' }}
{%- elif message.role == 'assistant' %}{{- ' ' + message.content + eos_token }}{% endif %}
{%- endfor %}"""

# Cuts the thoughts out of earlier answers and puts an empty thought before the last one. Thinking
# is switched off.
QWEN3 = """{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' %}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}
{%- if message.role == 'assistant' and loop.last %}{% set content = '<think>\n\n</think>\n\n' + content %}{% endif %}
{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"""

# With a section of tools, in Hermes' form.
HERMES = """{%- if tools %}
{{- '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{% endif %}
{{- '# Tools\n<tools>' }}
{%- for tool in tools %}{{- '\n' + (tool | tojson) }}{% endfor %}
{{- '\n</tools><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{% endif %}
{%- elif not (tools and loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role }}
{%- if message.content %}{{- '\n' + message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""

# With tools in the user's turn, results after a mark of their own, and calls as bare JSON.
LLAMA31 = """{{- bos_token }}
{%- set asked = (messages | selectattr('role', 'equalto', 'user') | list)[-1] %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + message.content + '<|eot_id|>' }}
{%- elif message.tool_calls %}
{%- if message.tool_calls | length != 1 %}{{- raise_exception('Only one call is taken') }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
{%- if tools and message == asked %}{{- tools | tojson + '\n\n' }}{% endif %}
{{- message.content | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

# With control tokens before tools, calls and results.
MISTRAL_TOOLS = """{{- bos_token }}
{%- set asked = (messages | selectattr('role', 'equalto', 'user') | list)[-1] %}
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- if tools and message == asked %}{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
{{- '[INST] ' + message.content + ' [/INST]' }}
{%- elif message.role == 'tool' %}
{%- if message.tool_call_id | length != 9 %}{{- raise_exception('Ids have nine characters') }}{% endif %}
{{- '[TOOL_RESULTS] ' + ({'content': message.content, 'call_id': message.tool_call_id} | tojson) + '[/TOOL_RESULTS]' }}
{%- elif message.tool_calls %}
{{- '[TOOL_CALLS] [' }}
{%- for call in message.tool_calls %}{{- call.function | tojson }}{% if not loop.last %}{{- ', ' }}{% endif %}{% endfor %}
{{- ']' + eos_token }}
{%- elif message.role == 'assistant' %}{{- ' ' + message.content + eos_token }}{% endif %}
{%- endfor %}"""

IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
FAMILIES = {
    "chatml": Family(CHATML, IM, None, "<|im_end|>", "<|im_end|>"),
    "llama3": Family(
        LLAMA3,
        [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ],
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        adds_bos=True,
    ),
    "gemma": Family(
        GEMMA,
        ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        "<bos>",
        "<eos>",
        "<end_of_turn>",
        adds_bos=True,
        takes_system=False,
    ),
    "mistral": Family(
        MISTRAL,
        ["<s>", "</s>", "[INST]", "[/INST]"],
        "<s>",
        "</s>",
        "</s>",
        adds_bos=True,
        metaspace=True,
        takes_system=False,
    ),
    "qwen3": Family(QWEN3, IM, None, "<|endoftext|>", "<|im_end|>"),
    "plain": Family(None, ["<s>", "</s>"], "<s>", "</s>", "</s>", adds_bos=True),
}
TOOL_FAMILIES = {
    "hermes": replace(FAMILIES["chatml"], template=HERMES),
    "llama31": replace(FAMILIES["llama3"], template=LLAMA31),
    "mistral tools": replace(
        FAMILIES["mistral"],
        template=MISTRAL_TOOLS,
        special=[
            *FAMILIES["mistral"].special,
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_CALLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ],
    ),
}


@cache
def build_tokenizer(name: str) -> Any:
    """A small tokenizer with the special tokens and the chat template of the family `name`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    family = (FAMILIES | TOOL_FAMILIES)[name]
    raw = Tokenizer(models.BPE())
    if family.metaspace:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        raw.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = ["▁", "\n", *map(chr, range(33, 127))]
    else:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=family.special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    raw.train_from_iterator(CORPUS, trainer)
    if family.adds_bos and family.bos:
        bos = (family.bos, raw.token_to_id(family.bos))
        raw.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[bos]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.eos,
        extra_special_tokens=[
            token for token in family.special if token not in (family.bos, family.eos)
        ],
    )
    tokenizer.chat_template = family.template
    return tokenizer
