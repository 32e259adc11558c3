"""The choice of who computes a callable's answers: capture, plan, executor, proof."""
