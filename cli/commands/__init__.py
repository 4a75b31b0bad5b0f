"""The commands, one file per group; ``cli.main`` names them."""
