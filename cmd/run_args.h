// SPDX-License-Identifier: Apache-2.0
// The options of the verbs that run programs of an image. See cmd/verb_args.h.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cmd/image_options.h"

namespace imagefs {

// What is run, and how. Of `run`, `shell` and `bundle`.
struct RunOptions {
  std::string reference;
  ImageOptions image;
  std::vector<std::string> command;       // none = the image's
  std::optional<std::string> entrypoint;  // "" = none
  std::vector<std::string> environment;   // NAME=VALUE, or NAME as in the caller's
  std::string user;                       // "" = the image's
  std::string directory;                  // "" = the image's
  bool read_only = false;
  bool quiet = false;
};

// A directory or file of the machine that the program sees.
struct BindArg {
  std::string source;       // as given
  std::string destination;  // absolute, in the image
  bool read_only = false;
};

struct RunArgs {
  RunOptions options;
  bool shell = false;  // the image's shell instead of a command
  std::vector<BindArg> binds;
  std::string keep;  // the directory that keeps what is written; "" = it is discarded
};

struct BundleArgs {
  RunOptions options;
  std::string directory;  // of the bundle
};

// Parses "SRC:DST[:ro]"; returns "" or what is wrong.
std::string ParseBind(const std::string& text, BindArg* out);

}  // namespace imagefs
