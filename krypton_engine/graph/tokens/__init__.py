"""Tokens of a graph: where they begin, which operators keep them apart, where they meet, where they end.

A vision transformer makes a token of every patch, puts a few fixed ones beside them (a class token,
registers), and from then on treats each token alike and by itself, but for attentions, in which all of them
meet. `krypton_engine.graph.tokens.search.find_tokens` recognises that by the roles of dimensions and by
operators, in whatever order dimensions lie and whether an attention is one operator or written out.

Where attention is in windows, tokens lie on grids, each coarser than the one before, and are moved about
between layers. `krypton_engine.graph.tokens.grids.find_grids` follows them element by element.
"""
