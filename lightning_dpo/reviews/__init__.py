"""A world whose answer is known: reviews of films, their true reward, and the policy that DPO should end at."""
