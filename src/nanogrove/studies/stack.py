def stack_key(preset):
    return None


def train_together(runs, watch=None):
    raise NotImplementedError
