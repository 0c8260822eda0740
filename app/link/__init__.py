"""The link between authority and decision workers: server, client, last-good file."""
