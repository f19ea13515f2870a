"""The CPC model: encoder, context network, predictors and loss."""
