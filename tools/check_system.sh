#!/bin/sh
# Names each piece that pip cannot install and that this machine lacks, with the command that
# installs it. Usage: check_system.sh PYTHON [c++]: with `c++` also what the extension needs.
python=$1
missing=0

install_command() {  # the packages' names on Debian, on Fedora, on Alpine
  if command -v apt-get >/dev/null; then echo "apt-get install -y $1"
  elif command -v dnf >/dev/null; then echo "dnf install -y $2"
  elif command -v apk >/dev/null; then echo "apk add $3"
  else echo "install $1 with your system's packages"
  fi
}

complain() {
  echo "missing: $1" >&2
  echo "    $(install_command "$2" "$3" "$4")" >&2
  missing=1
}

if ! command -v "$python" >/dev/null; then
  complain "Python 3.10 or newer ($python)" python3 python3 python3
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "missing: Python 3.10 or newer; $python is $("$python" --version 2>&1)." >&2
  echo "    make ... PYTHON=/path/to/another/python3" >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  complain "Python's venv module" python3-venv python3 python3
fi
if [ "$2" = c++ ]; then
  if ! "$python" -c 'import os, sysconfig as s, sys
sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))'; then
    complain "Python's headers" python3-dev python3-devel python3-dev
  fi
  if ! printf '#include <concepts>\n#include <span>\nint main() {}\n' |
      "${CXX:-c++}" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null; then
    complain "a C++20 compiler (${CXX:-c++})" g++ gcc-c++ "g++ linux-headers"
  fi
fi
exit $missing
