"""How a study is answered: one method a file, with what leaves a site and what the coordinator does with the sums."""
