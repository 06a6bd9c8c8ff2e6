// SPDX-License-Identifier: Apache-2.0
// What a shell can complete a command line with, by the model of the command line itself, so that
// it is never older than the command. The files in completions/ call
//   imagefs __complete WORD...
// with all words after the program up to the cursor, the last of which is to be completed and may
// be empty. It prints a line "CANDIDATE[<tab>DESCRIPTION]" for each whole word that the last one
// may become, and at the end ":words", ":files" or ":directories": the last two say that names of
// the file system are possible as well. It starts no daemon, waits for none longer than a second,
// and fails only in what it does not print.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace CLI {
class App;
}

namespace imagefs {

// Names that only the daemon knows.
enum class NamesOf { kNothing, kMounts, kImages, kAdded };

struct Completion {
  // Those that fit, with their descriptions, which may be "".
  std::vector<std::pair<std::string, std::string>> candidates;
  NamesOf names = NamesOf::kNothing;  // are candidates as well, if they start with `word`
  std::string prefix;                 // goes before these: "--wait="
  std::string word;
  bool files = false, directories = false;
  // Values of the global options on the line; "" = not given.
  std::string root, run;

  void Add(std::string_view candidate, std::string_view description);  // if it fits
  std::string Text() const;
};

// `words` as above. Never fails: a line that makes no sense has no candidates.
Completion Complete(const CLI::App& app, absl::Span<const std::string> words);

}  // namespace imagefs
