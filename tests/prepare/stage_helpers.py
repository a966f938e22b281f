"""Changes of configs, for the tests of stages."""


def change_priority(config):
    config.data.mix["b"].priority = 2
