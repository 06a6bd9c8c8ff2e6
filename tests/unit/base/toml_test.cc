// SPDX-License-Identifier: Apache-2.0
#include "base/toml.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace imagefs {
namespace {

bool Parses(std::string_view text) { return ParseToml(text, "f").ok(); }

// The error must be one, and printable.
std::string Error(std::string_view text) {
  const absl::StatusOr<toml::table> parsed = ParseToml(text, "f");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << Printable(text);
  EXPECT_FALSE(HasControls(ToStd(parsed.status().message()))) << Printable(text);
  return std::string(parsed.status().message());
}

TEST(TomlTest, NamesFileAndLine) {
  EXPECT_TRUE(Error("a = 1\na = 2\n").starts_with("f:2: "));
  EXPECT_TRUE(Error("\n\n[table\n").starts_with("f:3: "));
  const absl::StatusOr<toml::table> parsed = ParseToml("\na = 'x'\n", "f");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->get("a")->source().begin.line, 2U);
  EXPECT_EQ(parsed->get("a")->as_string()->get(), "x");
}

TEST(TomlTest, Limits) {
  EXPECT_EQ(Error(std::string((1 << 20) + 1, '#')), "f is larger than 1 MiB");
  EXPECT_TRUE(Parses(std::string(1 << 20, '#')));
  std::string dots = "a";
  for (int i = 0; i < 100'000; ++i) dots += ".a";
  EXPECT_EQ(Error(StrCat("\n[", dots, "]\n")), "f:2: has more than 256 dots in one line");
  EXPECT_EQ(Error(StrCat("a = 1\nb = {", dots, " = 1}\n")),
            "f:2: has more than 256 dots in one line");
  EXPECT_TRUE(Parses(StrCat("[", dots.substr(0, 2 * 256 + 1), "]\n")));
  for (const char bracket : {'[', '{'}) {
    EXPECT_TRUE(Error(StrCat("x = ", std::string(100'000, bracket))).starts_with("f:1: "));
  }
  EXPECT_TRUE(Parses(StrCat("x = ", std::string(8, '['), std::string(8, ']'))));
}

// Each of these has made toml++ fail one of its own checks, or is close to one that did.
TEST(TomlTest, MalformedText) {
  for (const std::string_view bad : {"[=",
                                     "[[=",
                                     "\n[ . ]",
                                     "[]",
                                     "[[]]",
                                     "[",
                                     "[[",
                                     "[ [\t",
                                     "\xef\xbb\xbf[=",
                                     "a = [\n1]\n[\n=",
                                     "[[[a]]]",
                                     "\xe2\x80\x8a = 1",
                                     "a = \xc2\xa0 1",
                                     "[\xc3\xa4]",
                                     "\x0c[=",
                                     "a = [}",
                                     "a = {]",
                                     "a = [1, }]",
                                     "]",
                                     "a = 1 }",
                                     "a = [[1}]",
                                     "a = ",
                                     "\x7f",
                                     "a = \"\xff\"",
                                     "a = 0x",
                                     "a = 1e",
                                     "a = +",
                                     "a = 1979-",
                                     "a = 07:",
                                     "a = \"\\u\"",
                                     "a = '''",
                                     "a.",
                                     "a..b = 1",
                                     "\"",
                                     "=",
                                     "a = 1_",
                                     "a = tru"}) {
    Error(bad);
  }
  Error(std::string_view("\0", 1));
  Error(std::string_view("a = \"\0\"", 7));
  EXPECT_TRUE(Parses("\xef\xbb\xbf# \xc3\xa4\r\na = \"\xc3\xa4\"\r\n"));
  EXPECT_TRUE(Parses("a = \"\xe3\x80\x8a\" # \xe3\x80\x8a"));
  EXPECT_TRUE(Parses("a = \"\"\"\\\n x\xe3\x80\x8a \\\"\n\"\"\" # \xe3\x80\x8a"));
  EXPECT_TRUE(Parses("a = [ # [=\n[1],\n[],]\n[ b ]\n[[\t'c' ]]\n"));
}

}  // namespace
}  // namespace imagefs
