"""Tries to use up the open files of the process outside: descriptors travel along with an answer (SCM_RIGHTS)."""

import os
import socket

import honest
import line


class FilesEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        features, kept = super().forward(audio, mask)
        answer, null = line.frame(features), os.open(os.devnull, os.O_RDONLY)
        socket.send_fds(line.connection(), [answer[:1]], [null] * 100)
        line.connection().sendall(answer[1:])
        line.be_silent()
        return features, kept
