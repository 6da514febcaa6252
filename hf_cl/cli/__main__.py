"""`python -m hf_cl.cli`: the same as `hf-cl`."""

from hf_cl.cli import main

main()
