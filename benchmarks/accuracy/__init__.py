"""The accuracy experiment: students of many kinds of labels, seeds and schedules, on 100 classes of Tiny-ImageNet."""
