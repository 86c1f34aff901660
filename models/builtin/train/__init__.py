"""How the built-in model is made: generated data, tokenizer, training, quantisation. Programs, not part of the package.

Run from `models/builtin` as `python -m train.<program>`; nothing in `smelt` imports this folder.
"""
