# SPDX-License-Identifier: Apache-2.0
# Completion of imagefs(1) for fish. The command itself says what is possible (cmd/completion.h).
function __imagefs_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
    set -q lines[1]; or return
    string match -v -r '^:' -- $lines
    set -l option (string match -r '^--[^=]*=' -- "$current")
    set -l path (string replace -r '^--[^=]*=' '' -- "$current")
    switch $lines[-1]
        case :files
            for name in (__fish_complete_path "$path")
                echo "$option$name"
            end
        case :directories
            for name in (__fish_complete_directories "$path")
                echo "$option$name"
            end
    end
end
complete -c imagefs -f -a '(__imagefs_complete)'
