"""The miniature's trained stages: autoencoder, text-to-image base, adapters, and the classifier that scores them."""
