#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Words that have no place in the sources, each with the thing to use instead.
set -euo pipefail
cd "$(dirname "$0")/../.."
sources=$(git ls-files 'base/*' 'image/*' 'fetch/*' 'cache/*' 'fs/*' 'snap/*' 'cmd/*' | grep -E '\.(h|cc)$')
all=$(git ls-files '*.h' '*.cc' '*.sh' '*.py' '*.proto' '*.txt' '*.cmake' | grep -v '^tests/lint/')
bad=0
# All lines as FILE:NUMBER:LINE. Comments and string literals are blanked out first: "new" is a common English word. So
# is a `new` that a smart pointer takes at once, which private constructors need.
code=$(grep -n '' $sources |
  sed -E 's@"([^"\\]|\\.)*"@""@g; s@//.*$@@; s@(WrapUnique|_ptr<[^>]*>( [a-z_]+)?)\(new @\1(@g')
ban() {  # ban REGEX ADVICE [EXCEPT]: EXCEPT is a regular expression of the files that may
  local hits
  if hits=$(grep -vE "^${3:-$}" <<<"$code" | grep -E "$1"); then
    echo "$hits"
    echo "words: $2"
    bad=1
  fi
}
ban 'std::(recursive_|shared_|timed_)?mutex|std::(lock_guard|unique_lock|scoped_lock|condition_variable)' \
  'use absl::Mutex, which clang can check, and TimedCondition' 'base/monotonic\.(h|cc):'
ban '(^|[^_[:alnum:]])new +[A-Za-z_:(]' 'use std::make_unique, or absl::WrapUnique(new T) for a private constructor'
ban '(^|[^_[:alnum:]])delete(\[\])? +[A-Za-z_*(]' 'every resource has an owner that is an object'
ban 'std::(cout|cerr|clog)|(^|[^_[:alnum:]])(printf|fprintf|puts|perror)\(' 'only cmd/ prints; use base/log.h' 'cmd/'
ban '(^|[^_[:alnum:]])(strcpy|strcat|sprintf|gets|system|popen)\(' 'unsafe or unwanted function'
ban '(^|[^_[:alnum:]])using namespace (std|absl|imagefs)' 'name what is used'
if grep -nE '(^|[^A-Za-z])(TODO|FIXME|XXX|HACK)([^A-Za-z]|$)' $all; then
  echo "words: finish it, or write it down elsewhere"
  bad=1
fi
# Words of a dialect, which a review found in every header: the field has others (docs/glossary.md). Comments count,
# string literals only where they are the messages and the help of the commands.
old='audiences?|brings?|brought|bringing|spool(s|ed)?|mend(s|ed|ing)?|strangers?|graves?|poison(s|ed)?|come what may|(to|may) be had|not to outlive|impatient|disarm(s|ed)?|beside|(is|are|not) here'
if sed -E 's@"([^"\\]|\\.)*"@""@g' $(grep '\.h$' <<<"$sources") | grep -nwE "$old"; then
  echo "words: say it in the terms of docs/glossary.md"
  bad=1
fi
if grep -nE "\"[^\"]*\b($old)\b[^\"]*\"" $(grep -E '^cmd/.*\.cc$' <<<"$sources"); then
  echo "words: say it to the user in the terms of docs/glossary.md"
  bad=1
fi
exit $bad
