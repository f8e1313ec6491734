"""The pages' routes, a file for each part of the app."""
