"""`python -m lightning_dpo.sample RUN`: answers of a run's policy and its reference side by side, and rewards."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_dpo.errors import UserError
from lightning_dpo.export import config_of, results_of
from lightning_dpo.printable import escape_unencodable, printable
from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.settings_files import as_dict

if TYPE_CHECKING:
    from lightning_dpo.evaluation.conversation import Conversation

_BUILT = ("model", "adapter", "loss", "reference")


def opened_conversation(run: Path, arguments: argparse.Namespace) -> "Conversation":
    """The policy of a run's checkpoint and the reference that it was trained with.

    Raises:
        UserError: The folder is not a run, or does not have this checkpoint.
    """
    import torch

    from lightning_dpo import DPOModule
    from lightning_dpo.checkpoints.reading import opened
    from lightning_dpo.data.tokens.chat_template import ChatTemplate
    from lightning_dpo.evaluation.conversation import Conversation

    config, checked = config_of(run, arguments.trust_remote_code, _BUILT)
    path = RunFolder(run).checkpoint(arguments.checkpoint)
    if not path.is_file():
        raise UserError(f"{path} does not exist; choose another one with --checkpoint")
    model, loss, reference, adapter = (checked.build(key) for key in ("model", "loss", "reference", "adapter"))
    tokenizer = model.tokenizer()
    chat = results_of(run).get("messages", False) if arguments.chat is None else arguments.chat
    if chat and not tokenizer.chat_template:
        raise UserError("--chat needs a tokenizer with a chat template")
    module = DPOModule(model, loss, reference, adapter)
    module.configure_model()
    saved = opened(path)
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"])
    module.eval().to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    options = as_dict(config.data, resolve=True).get("chat_template_kwargs")
    template = ChatTemplate(tokenizer, options or {}) if chat else None
    return Conversation(
        module, tokenizer, config.data.max_length, arguments.max_new_tokens, template, arguments.greedy, arguments.seed
    )


def prompts_of(file: Path) -> Iterator[str]:
    """The prompts in a file: a line each or, in a file with rows of data, the field `prompt` of each.

    Raises:
        UserError: The file does not exist or is not UTF-8, or a row has no prompt that is text.
    """
    from lightning_dpo.data.sources.files import SUFFIXES, read_rows

    if file.is_dir() or not file.exists():  # a pipe is not a file and can be read
        raise UserError(f"--prompts={file}: the file does not exist")
    if file.name.endswith(SUFFIXES):
        for where, row in read_rows(file):
            if isinstance(row, str):
                raise UserError(f"{where}: {row}")
            if not isinstance(row.get("prompt"), str):
                raise UserError(f"{where}: the row must have a prompt that is text; with --chat, the message of a user")
            yield row["prompt"]
        return
    try:
        with file.open(encoding="utf-8") as lines:
            yield from (line.removesuffix("\n") for line in lines if line.strip())
    except UnicodeDecodeError as error:
        raise UserError(f"--prompts={file}: the file is not UTF-8 ({error})") from error


def show(conversation: "Conversation", prompt: str) -> None:
    """Print the answers to a prompt, and the reward of each."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    answers = conversation.answers(prompt)
    table = Table(*(answer.side for answer in answers), show_lines=True)
    table.add_row(*(Text(printable(answer.text)) for answer in answers))
    if conversation.scores:
        table.add_row(*(f"reward {answer.reward:+.3f}" for answer in answers))
    Console().print(table)


def talk(conversation: "Conversation") -> None:
    """Read prompts from the terminal and print answers; score further answers to the same prompt.

    An empty line ends the answers to a prompt; an empty prompt, Ctrl-D or Ctrl-C ends the program.
    """
    try:
        while prompt := input("prompt> ").replace("\\n", "\n"):
            try:
                show(conversation, prompt)
            except UserError as error:  # the next prompt may be valid
                print(f"Error: {error}", file=sys.stderr)
                continue
            while conversation.scores and (answer := input("score an answer> ")):
                print(_reward(conversation, prompt, answer.replace("\\n", "\n")))
    except (EOFError, KeyboardInterrupt):
        print()


def _reward(conversation: "Conversation", prompt: str, answer: str) -> str:
    try:
        return f"reward {conversation.reward(prompt, answer):+.3f}"
    except UserError as error:
        return f"no reward: {error}"


def main() -> None:
    """The console script."""
    parser = argparse.ArgumentParser(
        prog="lightning-dpo sample",
        description="Samples answers of a run's policy and of its reference to your prompts, and prints the reward of "
        "each answer: how much more likely the training has made it. Without --prompts, it reads prompts from the "
        r"terminal, in which \n is a line break, and after each prompt further answers to score. An answer follows the "
        "prompt as it is typed: text often begins with a space.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, such as outputs/NAME/TIME")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt per line, or rows with prompt (.jsonl)")
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        help="a prompt is a user's message, for the chat template (default: if the run's data are messages)",
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="default: best")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="maximum tokens of an answer (default: 128)")
    parser.add_argument("--greedy", action="store_true", help="always take the most likely token")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the samples (default: 0)")
    parser.add_argument("--trust-remote-code", action="store_true", help="execute the code that comes with the model")
    arguments = parser.parse_args()
    if arguments.max_new_tokens < 1:
        parser.error("--max-new-tokens must be at least 1")
    escape_unencodable()
    try:
        # Before the model is opened, which takes longer.
        prompts = None if arguments.prompts is None else list(prompts_of(arguments.prompts))
        conversation = opened_conversation(arguments.run, arguments)
        if prompts is None:
            talk(conversation)
        for prompt in prompts or ():
            print(printable(f"\n{prompt}"))
            show(conversation, prompt)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
