"""The commands of the command line that come in groups: `runs`, `config`, `token`, and `serve`."""
