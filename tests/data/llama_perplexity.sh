#!/bin/sh
# What llama-perplexity (llama.cpp of llama_cpp_python 0.3.36) says of the tiny model:
#     sh llama_perplexity.sh llama-perplexity FOLDER_OF_GGUF_FILES      # tiny-rustdoc-{F32,F16,Q8_0,Q4_0}.gguf, made by strata convert
# -nr: its repacked kernels crash on some virtual machines. The last lines of its output are lost at its exit at times: run again then.
set -eu
llama=$1 models=$2 data=$(dirname "$0")
out=$data/tiny-rustdoc/llama-perplexity tasks=$data/tiny-rustdoc/tasks
mkdir -p "$out"
run() { # file, type, what the output must have, arguments
    until grep -q "$3" "$1" 2> /dev/null; do
        "$llama" -nr -t 2 -m "$models/tiny-rustdoc-$2.gguf" $4 > "$1" 2> /dev/null
    done
}
base=$out/base-Q4_0.bin
"$llama" -nr -t 2 -m "$models/tiny-rustdoc-Q4_0.gguf" -f "$data/valid.txt" -c 32 -b 32 --chunks 7 --kl-divergence-base "$base"
# Both compute the F32 model in F32: the figures must be equal.
run "$out/kl-F32.txt" F32 "Same top p:" "-c 32 -b 32 -fa off -ctk f32 -ctv f32 --kl-divergence-base $base --kl-divergence"
run "$out/kl-Q8_0.txt" Q8_0 "Same top p:" "-c 32 -b 32 --kl-divergence-base $base --kl-divergence"
for ty in F16 Q4_0; do
    run "$out/hellaswag-$ty.txt" $ty ^16 "--hellaswag -f $tasks/hellaswag.txt"
    run "$out/hellaswag-10-$ty.txt" $ty ^10 "--hellaswag -f $tasks/hellaswag.txt --hellaswag-tasks 10"
    run "$out/winogrande-$ty.txt" $ty ^15 "--winogrande -f $tasks/winogrande.csv"
    run "$out/winogrande-10-$ty.txt" $ty ^10 "--winogrande -f $tasks/winogrande.csv --winogrande-tasks 10"
    run "$out/multiple_choice-$ty.txt" $ty ^16 "--multiple-choice -bf $tasks/multiple_choice.bin -np 8"
    run "$out/multiple_choice-10-$ty.txt" $ty ^10 "--multiple-choice -bf $tasks/multiple_choice.bin -np 8 --multiple-choice-tasks 10"
done
