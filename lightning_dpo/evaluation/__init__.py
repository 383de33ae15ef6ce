"""What a trained model's implicit rewards are worth."""
