"""A Modelfile, by which Ollama makes the run's prompts for a GGUF file."""

from atgen_ray.config import ModelConfig
from atgen_ray.models.chat_template import PROBE, render_turns, takes_system
from atgen_ray.models.prompts import PromptBuilder

_SYSTEM = f"{PROBE}system"


def write_modelfile(file: str, prompts: PromptBuilder, model: ModelConfig) -> str:
    """Return the Modelfile of the GGUF file `file`.

    Its template is the prompt of the run, whole, with the user turn left open: system turn, solved
    examples, and the beginning of the answer. A system turn that a caller gives stands in place of
    all that is before the user turn. Answers are greedy, and end where the run's do.
    """
    before, _, after = prompts.render(PROBE).rpartition(PROBE)
    template = f"{_escape(before)}{{{{ .Prompt }}}}{_escape(after)}"
    if takes_system(prompts.tokenizer):
        other, answer = _open_system(prompts)
        given = f"{other}{{{{ .Prompt }}}}{answer}"
        template = f"{{{{ if .System }}}}{given}{{{{ else }}}}{template}{{{{ end }}}}"
    stops = [str(prompts.tokenizer.convert_ids_to_tokens(id_)) for id_ in prompts.stop_ids]
    lines = [
        f"# The run made its user turns by: {' '.join(prompts.prompt.template.split())}",
        f"FROM ./{file}",
        f'TEMPLATE """{template}"""',
        *(f'PARAMETER stop "{stop}"' for stop in stops),
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {model.max_prompt_tokens + model.max_new_tokens}",
        f"PARAMETER num_predict {model.max_new_tokens}",
    ]
    return "\n".join(lines) + "\n"


def _open_system(prompts: PromptBuilder) -> tuple[str, str]:
    """Return a template up to the user turn with a caller's system turn, and what follows it."""
    turns = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": PROBE}]
    text = render_turns(prompts.tokenizer, turns, generation=True)
    first, _, rest = text.partition(_SYSTEM)
    middle, _, after = rest.partition(PROBE)
    return f"{_escape(first)}{{{{ .System }}}}{_escape(middle)}", _escape(after)


def _escape(text: str) -> str:
    """Return a text that Go's templates print as it is, within a Modelfile's three quotes."""
    return text.replace("{{", '{{ "{{" }}').replace('"""', '{{ "\\"\\"\\"" }}')
