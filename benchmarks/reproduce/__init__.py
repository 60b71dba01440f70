"""The figures of the lectures reproduced: runs, their records, conclusions, and the pages made from them."""
