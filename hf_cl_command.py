"""The console script `hf-cl`.

A module beside the package: importing `hf_cl` registers the adapter types, which takes the seconds that torch, transformers and peft take.
Where this module was imported first, `hf_cl/__init__.py` leaves that to the subcommands, and help is there at once.
"""


def main() -> None:
    """Run the command line."""
    from hf_cl.cli import main as command  # noqa: PLC0415

    command()
