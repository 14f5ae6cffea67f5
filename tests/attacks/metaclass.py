"""Tries to end the server from where it only looks: names, isinstance and attributes of its class raise SystemExit."""


class Meta(type):
    @property
    def __name__(cls):
        raise SystemExit(0)

    def __instancecheck__(cls, value):
        raise SystemExit(0)


class MetaEncoder(metaclass=Meta):
    def __getattribute__(self, name):
        raise SystemExit(0)
