"""Check whether an answer follows the verifiable instructions of its prompt: IFEval and IFBench."""
