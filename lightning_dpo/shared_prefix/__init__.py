"""One prompt for all of its completions: the attention that makes it possible, and the trial that allows it."""
