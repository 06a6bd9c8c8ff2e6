// SPDX-License-Identifier: Apache-2.0
#include "base/text.h"

#include "gtest/gtest.h"

namespace imagefs {
namespace {

TEST(Utf8Test, TellsTextFromBytes) {
  for (const char* text : {"", "plain", "\u00fcbung", "\u20ac", "\U0001f600", "\ufffd"}) {
    EXPECT_TRUE(IsUtf8(text)) << text;
  }
  // A stray byte, a truncated one, an overlong encoding, a surrogate, beyond the last code point.
  for (const char* bytes :
       {"\xff", "\x80", "a\xc3", "\xe2\x82", "\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf",
        "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xc3\x28"}) {
    EXPECT_FALSE(IsUtf8(bytes)) << Printable(bytes);
    EXPECT_TRUE(HasControls(bytes)) << Printable(bytes);
  }
}

TEST(Utf8Test, FindsControls) {
  EXPECT_FALSE(HasControls("a b/\u00fcbung \u20ac"));
  for (const std::string_view text : {std::string_view("a\nb"), std::string_view("\x1b[31m"),
                                      std::string_view("a\0b", 3), std::string_view("\x7f"),
                                      std::string_view("\xc2\x9b"
                                                       "31m"),
                                      std::string_view("\xe2\x80\xa8")}) {
    EXPECT_TRUE(HasControls(text)) << Printable(text);
    EXPECT_TRUE(text == "\xff" || IsUtf8(text));
  }
}

TEST(PrintableNameTest, KeepsTextAndEscapesTheRest) {
  EXPECT_EQ(PrintableName("/srv/\u00fcbung 1"), "/srv/\u00fcbung 1");
  EXPECT_EQ(PrintableName("a\nb\x1b[31mred"), "a\\nb\\x1b[31mred");
  EXPECT_EQ(PrintableName("\xff"), "\\xff");
  EXPECT_EQ(PrintableName("\xe2\x80\xaetxt.exe"), "\\xe2\\x80\\xaetxt.exe");
}

TEST(PrintableNameTest, LeavesTheMiddleOut) {
  EXPECT_EQ(PrintableName("abcdefghij", 10), "abcdefghij");
  EXPECT_EQ(PrintableName("abcdefghijk", 10), "abcde...ghijk");
  // Characters are not cut in two.
  EXPECT_EQ(PrintableName("abcd\u20acxxx\u20acefg", 10), "abcd...efg");
  EXPECT_LT(PrintableName(std::string(100'000, '/')).size(), 210u);
  EXPECT_LT(PrintableName(std::string(100'000, '\x80'), 60).size(), 260u);
}

}  // namespace
}  // namespace imagefs
