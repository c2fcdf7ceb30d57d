"""Penjing (盆景): makes a fine-tuned BERT small and fast on the machine where it will run, with the proof."""

__version__ = "0.1.0"
