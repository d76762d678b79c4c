"""The `shikaku` command, one file a subcommand."""
