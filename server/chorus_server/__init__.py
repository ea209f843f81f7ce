"""The coordinator: registers nodes, decides which model each holds, routes requests, aggregates answers."""
