"""Methods at sizes for texts of tens to hundreds of tokens; at those of their papers: the folder of this name above."""
