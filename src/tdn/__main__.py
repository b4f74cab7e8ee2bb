"""`python -m tdn`, which `torchrun -m tdn` needs."""

from tdn.cli.main import main

main()
