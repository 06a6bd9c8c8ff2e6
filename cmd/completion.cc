// SPDX-License-Identifier: Apache-2.0
#include "cmd/completion.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iterator>

#include "base/text.h"

namespace imagefs {
namespace {

// What the values of an option or a positional argument are, where its type does not say so. The
// first row that fits counts; "" fits every verb.
struct Values {
  std::string_view verb, name;
  NamesOf names = NamesOf::kNothing;
  bool files = false, directories = false;
};
constexpr Values kValues[] = {
    {"umount", "DIR", NamesOf::kMounts, false, true},
    {"ls", "DIR", NamesOf::kMounts, false, true},
    {"status", "DIR", NamesOf::kMounts, false, true},
    {"pull", "--wait", NamesOf::kMounts, false, true},
    {"drop", "NAME", NamesOf::kAdded},
    {"import", "REF"},  // of another store
    {"", "REF", NamesOf::kImages},
    {"", "DIR", NamesOf::kNothing, false, true},
    {"", "FILE", NamesOf::kNothing, true, false},
    {"", "KEY", NamesOf::kNothing, true, false},
    {"", "SOCKET", NamesOf::kNothing, true, false},
    {"", "--root", NamesOf::kNothing, false, true},
    {"", "--run", NamesOf::kNothing, false, true},
    {"", "--config", NamesOf::kNothing, true, false},
    {"", "--ca-file", NamesOf::kNothing, true, false},
};

bool TakesValue(const CLI::Option& option) { return option.get_expected_max() > 0; }

// The words of "TEXT:{auto,kernel,fuse}".
std::vector<std::string_view> Choices(std::string_view type) {
  const size_t begin = type.find('{'), end = type.find('}');
  if (begin == type.npos || end == type.npos || end < begin) return {};
  return Split(type.substr(begin + 1, end - begin - 1), ',');
}

class Completer {
 public:
  explicit Completer(const CLI::App& app) : app_(app) {}

  Completion Run(absl::Span<const std::string> words) {
    const std::string current = words.empty() ? "" : words.back();
    for (size_t i = 0; i + 1 < words.size(); ++i) {
      if (!Pass(words[i])) return std::move(out_);
    }
    out_.word = current;
    if (pending_ != nullptr) {
      AddValues(*pending_);
    } else if (!only_arguments_ && current.starts_with('-')) {
      const size_t equals = current.find('=');
      if (equals == std::string::npos) {
        AddOptions();
      } else if (const CLI::Option* option = Find(current.substr(0, equals)); option != nullptr) {
        out_.prefix = current.substr(0, equals + 1);
        out_.word = current.substr(equals + 1);
        AddValues(*option);
      }
    } else if (verb_ == nullptr || verb_->get_name() == "help") {
      AddVerbs();
    } else if (const CLI::Option* argument = NextArgument(); argument != nullptr) {
      AddValues(*argument);
    }
    return std::move(out_);
  }

 private:
  const CLI::Option* Find(const std::string& name) const {
    const CLI::Option* option = verb_ == nullptr ? nullptr : verb_->get_option_no_throw(name);
    return option != nullptr ? option : app_.get_option_no_throw(name);
  }

  void Keep(const CLI::Option& option, std::string_view value) {
    if (option.check_lname("root")) out_.root = value;
    if (option.check_lname("run")) out_.run = value;
  }

  // Takes a word before the cursor. Returns false if the line makes no sense.
  bool Pass(const std::string& word) {
    if (pending_ != nullptr) {
      Keep(*std::exchange(pending_, nullptr), word);
    } else if (!only_arguments_ && word == "--") {
      only_arguments_ = true;
    } else if (!only_arguments_ && word.size() > 1 && word.starts_with('-')) {
      const size_t equals = word.find('=');
      const CLI::Option* const option = Find(word.substr(0, equals));
      if (option == nullptr || !TakesValue(*option)) return true;
      if (equals == std::string::npos) pending_ = option;
      if (equals != std::string::npos) Keep(*option, std::string_view(word).substr(equals + 1));
    } else if (verb_ == nullptr) {
      const auto named =
          app_.get_subcommands([&word](const CLI::App* verb) { return verb->get_name() == word; });
      if (named.empty()) return false;
      verb_ = named[0];
    } else {
      ++arguments_;
    }
    return true;
  }

  void AddVerbs() {
    for (const CLI::App* verb : app_.get_subcommands([](const CLI::App*) { return true; })) {
      out_.Add(verb->get_name(), verb->get_description());
    }
  }

  void AddOptions() {
    for (const CLI::App* app : {verb_, &app_}) {
      if (app == nullptr) continue;
      for (const CLI::Option* option : app->get_options()) {
        // Those without a group are not in the help either. Both have --help.
        const bool twice = app == &app_ && verb_ != nullptr && option->check_lname("help");
        if (option->get_positional() || option->get_group().empty() || twice) continue;
        for (const std::string& name : option->get_lnames()) {
          out_.Add(StrCat("--", name), option->get_description());
        }
      }
    }
  }

  const CLI::Option* NextArgument() const {
    std::vector<const CLI::Option*> all =
        verb_->get_options([](const CLI::Option* option) { return option->get_positional(); });
    if (arguments_ < all.size()) return all[arguments_];
    return !all.empty() && all.back()->get_expected_max() > 1 ? all.back() : nullptr;
  }

  void AddValues(const CLI::Option& option) {
    const std::string type = option.get_type_name();
    const std::vector<std::string_view> choices = Choices(type);
    for (const std::string_view choice : choices) out_.Add(StrCat(out_.prefix, choice), "");
    if (!choices.empty()) return;
    const std::string name = option.get_positional() ? option.get_name(true) : option.get_name();
    const std::string_view base = std::string_view(type).substr(0, type.find(':'));
    const std::string_view verb = verb_ == nullptr ? "" : std::string_view(verb_->get_name());
    const auto* const row =
        std::find_if(std::begin(kValues), std::end(kValues), [&](const Values& one) {
          return (one.verb.empty() || one.verb == verb) && (one.name == name || one.name == base);
        });
    if (row == std::end(kValues)) return;
    out_.names = row->names;
    out_.files = row->files;
    out_.directories = row->directories;
  }

  const CLI::App& app_;
  const CLI::App* verb_ = nullptr;
  const CLI::Option* pending_ = nullptr;  // waits for its value
  bool only_arguments_ = false;           // after "--"
  size_t arguments_ = 0;                  // of the verb, before the cursor
  Completion out_;
};

}  // namespace

void Completion::Add(std::string_view candidate, std::string_view description) {
  if (!candidate.starts_with(StrCat(prefix, word))) return;
  candidates.emplace_back(candidate, description);
}

std::string Completion::Text() const {
  std::string text;
  for (const auto& [candidate, description] : candidates) {
    StrAppend(&text, Printable(candidate, 4096), description.empty() ? "" : "\t", description,
              "\n");
  }
  // A name that is known is better than any directory.
  const bool directory = directories && (names == NamesOf::kNothing || candidates.empty());
  return StrCat(text, files ? ":files" : directory ? ":directories" : ":words", "\n");
}

Completion Complete(const CLI::App& app, absl::Span<const std::string> words) {
  return Completer(app).Run(words);
}

}  // namespace imagefs
