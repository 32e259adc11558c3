"""What users' cases and hostile tests showed: each test stands for a kind of fault that was there."""
