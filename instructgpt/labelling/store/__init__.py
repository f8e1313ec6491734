"""What the labelling app keeps: people, projects, tasks, labels. Plain functions over a `Store`, frozen
dataclasses out."""
