"""The learned scheduler: which schedules a kernel can have, what they are expected to take, and
how candidates are measured and searched. What schedules stand for is below (`transforms.schedule`),
what users call is above (`tuning`). docs/cost_model.md has the figures.

    spaces walks features     points, how they walk the axes, what a model sees of them
    model training metrics    a network that corrects the roofline, and how good it is
    distillation transfer     many teachers in one network; one network on another machine
    search                    which points to measure next
    measure worker            candidates in processes of their own, here or on an executor
    encoding records files    kernels and measurements as text, in a database
    corpus dataset priors     what the shipped weights were learned from
    algorithms                which way to compute a convolution
    choice deferred           the schedule to compile with
    explaining                why it was chosen
"""
