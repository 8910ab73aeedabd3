"""Rollouts: prompts out of batches, their completions, what the policy thinks of them, and the updates' buffer."""
