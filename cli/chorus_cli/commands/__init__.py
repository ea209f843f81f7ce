"""One module for each subcommand; each has its click command under the name `command`."""
