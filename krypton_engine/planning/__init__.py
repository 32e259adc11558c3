"""Who answers for a callable: capture, plan, executor, proof."""
