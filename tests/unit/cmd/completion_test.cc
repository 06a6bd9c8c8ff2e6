// SPDX-License-Identifier: Apache-2.0
#include "cmd/completion.h"

#include <string>
#include <variant>
#include <vector>

#include "base/text.h"
#include "cmd/cli.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

std::variant<Command, CliExit> Parse(std::vector<const char*> words) {
  words.insert(words.begin(), {"imagefs", "__complete"});
  return ParseCommandLine(static_cast<int>(words.size()), words.data(), "1.2.3");
}

// The candidates and the last line, separated by spaces.
std::string Printed(const std::vector<const char*>& words) {
  const auto result = Parse(words);
  const auto* exit = std::get_if<CliExit>(&result);
  if (exit == nullptr) return "a daemon is asked";
  EXPECT_EQ(exit->code, 0);
  EXPECT_EQ(exit->error, "");
  std::string out;
  for (const std::string_view line : Split(exit->output, '\n')) {
    if (!line.empty()) StrAppend(&out, out.empty() ? "" : " ", line.substr(0, line.find('\t')));
  }
  return out;
}

// What the daemon is asked for.
Completion Asked(const std::vector<const char*>& words) {
  const auto result = Parse(words);
  const auto* command = std::get_if<Command>(&result);
  const auto* args = command == nullptr ? nullptr : std::get_if<CompleteArgs>(&command->args);
  EXPECT_NE(args, nullptr);
  if (args == nullptr) return Completion();
  EXPECT_EQ(command->global.root, args->completion.root);
  return args->completion;
}

TEST(CompletionTest, VerbsAndOptions) {
  EXPECT_EQ(Printed({"mou"}), "mount :words");
  EXPECT_EQ(Printed({"--json", "--root", "/r", "log"}), "log-level login logout :words");
  EXPECT_EQ(Printed({"help", "unp"}), "unpin :words");
  EXPECT_EQ(Printed({"stop", "--unm"}), "--unmount :words");
  EXPECT_EQ(Printed({"stop", "--jso"}), "--json :words") << "a global option";
  EXPECT_EQ(Printed({"stop", "--mode"}), ":words") << "another verb's";
  EXPECT_EQ(Printed({"daemon", "--ready"}), ":words") << "one that is in no help";
  EXPECT_EQ(Printed({"stop", "--hel"}), "--help :words") << "once";
}

TEST(CompletionTest, ValuesOfOptions) {
  EXPECT_EQ(Printed({"mount", "--mode", ""}), "auto kernel fuse :words");
  EXPECT_EQ(Printed({"mount", "--mode=f"}), "--mode=fuse :words");
  EXPECT_EQ(Printed({"pull", "a", "--pull", "n"}), "never :words");
  EXPECT_EQ(Printed({"--log-level", "d"}), "debug :words");
  EXPECT_EQ(Printed({"log-level", "w"}), "warning :words");
  EXPECT_EQ(Printed({"profile", ""}), "show export import clear :words");
  EXPECT_EQ(Printed({"mount", "--timeout", ""}), ":words");
  EXPECT_EQ(Printed({"mount", "--upper", ""}), ":directories");
  EXPECT_EQ(Printed({"mount", "a", ""}), ":directories");
  EXPECT_EQ(Printed({"index", "--sign", ""}), ":files");
  EXPECT_EQ(Printed({"pull", "--authfile=/"}), ":files");
  EXPECT_EQ(Printed({"--config", ""}), ":files");
}

TEST(CompletionTest, NamesThatTheDaemonKnows) {
  EXPECT_EQ(Asked({"--root", "/r", "umount", "/m"}).names, NamesOf::kMounts);
  EXPECT_EQ(Asked({"--root", "/r", "umount", "/m"}).root, "/r");
  EXPECT_EQ(Asked({"--run=/u", "umount", "/m"}).run, "/u");
  EXPECT_EQ(Asked({"umount", "/a", "/b", "/m"}).word, "/m") << "any number";
  EXPECT_EQ(Asked({"pull", "--wait", ""}).names, NamesOf::kMounts);
  EXPECT_EQ(Asked({"pull", "--wait=/m"}).prefix, "--wait=");
  EXPECT_EQ(Asked({"mount", "--rw", "--mode", "fuse", ""}).names, NamesOf::kImages);
  EXPECT_EQ(Asked({"rm", "a", "-f", "--", ""}).names, NamesOf::kImages);
  EXPECT_EQ(Asked({"drop", ""}).names, NamesOf::kAdded);
}

TEST(CompletionTest, LinesThatMakeNoSense) {
  for (const std::vector<const char*>& words : std::vector<std::vector<const char*>>{
           {"bogus", ""}, {"df", ""}, {"status", "/a", ""}, {"stop", "--bogus="}, {"--"}}) {
    EXPECT_EQ(Printed(words).find("a daemon"), std::string::npos);
  }
  EXPECT_EQ(Printed({"bogus", ""}), ":words");
  EXPECT_EQ(Printed({"df", ""}), ":words");
  EXPECT_EQ(Printed({"status", "/a", ""}), ":words");
  EXPECT_EQ(Printed({"stop", "--bogus=x"}), ":words");
  EXPECT_NE(Printed({}).find("mount"), std::string::npos) << "as one empty word";
}

TEST(CompletionTest, ANameIsBetterThanADirectory) {
  Completion completion;
  completion.names = NamesOf::kMounts;
  completion.directories = true;
  completion.word = "/m";
  EXPECT_EQ(completion.Text(), ":directories\n");
  completion.Add("/other", "");
  EXPECT_EQ(completion.Text(), ":directories\n");
  completion.Add("/mnt", "image");
  EXPECT_EQ(completion.Text(), "/mnt\timage\n:words\n");
}

}  // namespace
}  // namespace imagefs
