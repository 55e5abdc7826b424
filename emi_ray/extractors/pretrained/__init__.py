"""Extractors that run a pretrained model of ``transformers``, and Whisper, which recognises speech."""
