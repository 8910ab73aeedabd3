"""Parts of a project's documentation that are generated from what is registered, so that they cannot go stale."""
