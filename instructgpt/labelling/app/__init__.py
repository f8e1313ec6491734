"""The labelling web app: server-rendered pages over the store; JavaScript only where a form can't do it."""
